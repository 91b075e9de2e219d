"""Writers of other label formats, one file each; `labels` reads what they write. `tailseg data export` uses them."""
