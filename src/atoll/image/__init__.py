"""Images: references, content, layers and the disks that VMs see of them."""
