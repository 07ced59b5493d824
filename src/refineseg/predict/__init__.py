"""Prediction: any image to a mask, through any Scorer; never about data sets.

Called, it is the function :func:`refineseg.api.predict.predict`.
"""

from refineseg._calling import make_callable

make_callable(__name__)
