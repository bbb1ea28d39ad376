"""From the scanner's DICOM files to a BIDS dataset without anyone's name in it."""
