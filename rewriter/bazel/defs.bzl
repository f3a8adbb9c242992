"""Programs that start the runtime first.

    load("@allocs_rewrite//:defs.bzl", "allocs_rewrite")

    allocs_rewrite(
        name = "server",
        program = ":server_as_built",
    )

The result is one more executable target, with the data that the program has, and the runtime beside it. Name it in
the package that the program is in: the run path of a program with shared libraries is relative to that.

The tool, the program and the runtime are all that the action reads, it has no environment, and the same program
gives the same bytes on every machine: so it may run in any sandbox and on any remote worker, and its result may come
from a shared cache. A worker runs the tool itself, which needs an x86-64 Linux with glibc.
"""

def _allocs_rewrite(ctx):
    # Each target of a package declares the same link to the runtime, which Bazel takes for one.
    runtime = ctx.actions.declare_file(ctx.file._runtime.basename)
    ctx.actions.symlink(output = runtime, target_file = ctx.file._runtime)

    result = ctx.actions.declare_file(ctx.label.name)
    arguments = ctx.actions.args()
    arguments.add("--quiet")
    arguments.add("--runtime", "$ORIGIN/" + runtime.basename)
    arguments.add(ctx.executable.program)
    arguments.add("-o", result)
    ctx.actions.run(
        executable = ctx.executable._tool,
        arguments = [arguments],
        inputs = [ctx.executable.program, runtime],
        outputs = [result],
        mnemonic = "AllocsRewrite",
        progress_message = "Making %s start the runtime first" % ctx.label,
    )

    runfiles = ctx.runfiles(files = [runtime])
    return DefaultInfo(
        executable = result,
        files = depset([result, runtime]),
        runfiles = runfiles.merge(ctx.attr.program[DefaultInfo].default_runfiles),
    )

allocs_rewrite = rule(
    implementation = _allocs_rewrite,
    doc = "A program that starts the runtime first, made from one that does not.",
    attrs = {
        "program": attr.label(
            doc = "The program: any target that is a dynamically linked executable.",
            executable = True,
            cfg = "target",
            mandatory = True,
        ),
        "_runtime": attr.label(
            default = "//:liballocs_rt.so.1",
            allow_single_file = True,
        ),
        "_tool": attr.label(
            default = "//:allocs-rewrite",
            executable = True,
            cfg = "exec",
            allow_single_file = True,
        ),
    },
    executable = True,
)
