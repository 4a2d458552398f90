"""fedctl: everything that a person does. One file per noun, one printer."""
