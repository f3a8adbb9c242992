// Constructors of modules and of threads, the garbage collector, an exception, a thread.
import core.stdc.stdlib : malloc, free;
import core.thread : Thread;
import std.stdio : writeln;

int[] early;
shared static this() { early = [1, 2, 3]; }

int main()
{
    auto block = malloc(12345);
    free(block);
    auto numbers = new int[](100_000);
    foreach (i, ref n; numbers)
        n = cast(int) i % 97;
    long sum;
    auto thread = new Thread({ foreach (n; numbers) sum += n; });
    thread.start();
    thread.join();
    try
        throw new Exception("caught");
    catch (Exception e)
        writeln(early.length, " ", sum, " ", e.msg);
    return 5;
}
