"""The builtin spatial engine: template, affines, registration, brain mask, resampling.

Plain Python on NumPy, SciPy, SimpleITK and nibabel. All affines in memory are 4x4
matrices in RAS+ millimetres that map points of the reference to points of the moving
image; a matrix is called ``<moving>_from_<reference>``.
"""
