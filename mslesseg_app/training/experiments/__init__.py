"""From a BIDS dataset with manual masks to trained models in the registry."""
