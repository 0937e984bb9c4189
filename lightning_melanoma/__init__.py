"""Find melanoma in dermoscopy images: TFRecords in, a probability for each image out.

Importing the package imports neither torch nor pytorch_lightning, so that the commands that are
functions of files (``synthesize``, ``convert``) start at once.
"""

__version__ = "0.1.0"
