"""The networks: normalised images in, a logit for each image out; no loss, data or trainer."""
