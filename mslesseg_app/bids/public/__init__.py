"""Public data sets of MS lesions into BIDS, manual masks included."""
