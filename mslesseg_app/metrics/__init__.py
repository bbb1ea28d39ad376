"""Agreement of a lesion mask with a reference mask."""
