"""What users of pytest expect, one file a situation."""
