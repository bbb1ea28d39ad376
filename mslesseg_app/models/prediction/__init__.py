"""From images on the template grid to a lesion probability."""
