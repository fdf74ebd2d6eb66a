"""What is known of the kernel's memory: the only package that imports drgn."""
