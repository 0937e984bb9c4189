"""What a model looked at: heat maps of single images, and pictures of them."""
