# For gdb -x: goes through a program's malloc and operator new instruction by instruction, and asks on each that is
# in the section `text`, as a rewrite calls that of its code, for the way back to main.
import re

import gdb

for line in ("set debuginfod enabled off", "set pagination off", "set confirm off", "break main", "run", "delete"):
    gdb.execute(line, to_string=True)
sections = gdb.execute("info files", to_string=True)
code = re.findall(r"(0x[0-9a-f]+) - (0x[0-9a-f]+) is text$", sections, re.MULTILINE)
assert len(code) == 1, sections
begin, end = (int(number, 16) for number in code[0])
inside = whole = 0
for function in ("malloc", "_Znwm"):
    for line in ("break *&" + function, "continue", "delete"):
        gdb.execute(line, to_string=True)
    outside = 0
    seen = inside
    while seen == inside or outside < 600:
        if begin <= int(gdb.parse_and_eval("(unsigned long)$pc")) < end:
            frames = [gdb.newest_frame()]
            while frames[-1] is not None:
                frames.append(frames[-1].older())
            inside += 1
            whole += "main" in [frame.name() for frame in frames[:-1]]
            outside = 0
        outside += 1
        if outside > 3000:
            break
        gdb.execute("stepi", to_string=True)
print("%d instructions, %d whole" % (inside, whole))
