"""The data room: NumPy arrays and dataclasses that hold no drgn object."""
