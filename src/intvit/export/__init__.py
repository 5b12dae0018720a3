"""From a calibrated model to a program, and from a program to what is handed over.

Calling it, `intvit.export(model, folder)`, is `intvit.export.record.export`.
"""

from intvit.callable_package import make_callable

make_callable(__name__, "intvit.export.record", "export")
