"""Measuring: metrics, protocol, comparison, reports, cards.

Called, it is the function :func:`refineseg.api.evaluate.evaluate`.
"""

from refineseg._calling import make_callable

make_callable(__name__)
