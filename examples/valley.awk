# One interval of gradient descent with momentum down Rosenbrock's valley, (1 - x)^2 + 100 (y - x^2)^2, lowest at (1, 1).
# A member that is not a Python program: environment variables tell it everything. valley.py declares the experiment.
# The config comes as variables: awk -v lr=0.001 -v momentum=0.9 -f valley.awk

BEGIN {
    x = -1.5; y = 2; u = v = 0                                   # where generation 0 begins
    if (ENVIRON["GPBT_PARENT"] != "") {
        state = ENVIRON["GPBT_PARENT"] "/state"                  # a folder, to be read and never written to
        if ((getline line < state) <= 0) { print "cannot read " state > "/dev/stderr"; exit 1 }
        split(line, field, " "); x = field[1]; y = field[2]; u = field[3]; v = field[4]
    }
    for (step = 1; step <= 100; step++) {
        dx = -2 * (1 - x) - 400 * x * (y - x * x)
        dy = 200 * (y - x * x)
        u = momentum * u - lr * dx; x += u
        v = momentum * v - lr * dy; y += v
        if (x * x + y * y > 1e6) break                           # it has flown out of the valley
    }
    height = (1 - x) ^ 2 + 100 * (y - x * x) ^ 2
    printf "{\"height\": %.17g}\n", height >> ENVIRON["GPBT_METRICS"]
    printf "%.17g %.17g %.17g %.17g\n", x, y, u, v > (ENVIRON["GPBT_CHECKPOINT"] "/state")
}
