"""dynpartition.serving: runs models request by request, on whatever devices there are."""

if __name__ != "dynpartition.serving":
    raise ImportError("import dynpartition.serving, not serving")
