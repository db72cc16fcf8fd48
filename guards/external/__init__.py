"""Guards that are services elsewhere, behind the interface of our own: texts in, findings out."""
