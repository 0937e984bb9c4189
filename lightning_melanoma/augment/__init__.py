"""Augmentation of whole batches on the device: functions of images and draws, fixed shapes."""
