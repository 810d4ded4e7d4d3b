import sys

import pymar

print(pymar.read_text(sys.argv[1]).flat_map(str.split).group_by().count().top(3, key=lambda pair: pair[1]))
