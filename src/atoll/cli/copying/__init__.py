"""What `atoll cp` does on the host's side: names, packing, unpacking."""
