"""Nobody starves anybody: each operation and frame at its largest input, from many connections, beside a canary."""
