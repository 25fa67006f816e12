"""What looks at finished files, and makes others of them: each time in a process of its own, with limits.

`contract` is what a processor is, `registry` finds them by their names, `sandbox` runs one of them.
"""

from tusgate.processors.contract import Derived, Json, Processor, ProcessorError, ProcessorFailed, Result, Source

__all__ = ["Derived", "Json", "Processor", "ProcessorError", "ProcessorFailed", "Result", "Source"]
