"""The report of runs: one HTML file, and a server on this machine.

write_report([read_run(Path("runs/a")), read_run(Path("runs/b"))], Path("report.html"))
"""
