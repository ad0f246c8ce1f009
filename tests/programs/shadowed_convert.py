"""Import the installed convert next to a file convert.py."""

import sys
import warnings

sys.path.insert(0, "")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from jaxgpt import convert
import convert as mine

assert mine.answer == 42
print(len(caught), "hides" in str(caught[0].message), str(caught[0].message).count("convert.py"))
loaded = convert.to_flax(sys.argv[1])
print(loaded.dialect.name, sorted(convert.to_torch(loaded.params, loaded.config, dialect="gpt"))[0])
from jaxgpt import convert as again

print(again is convert)
