"""The LightningModules: what is trained, on what loss, by which optimizer."""
