"""The only door to optional libraries, their callbacks, nets and files; imports `_training` and below."""
