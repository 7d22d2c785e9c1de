# A short front for ./run: make, make test, make asan, ... (./run help tells what each does)
.PHONY: build demo test bench lint asan ubsan tsan fuzz fresh clean help
build demo test bench lint asan ubsan tsan fuzz fresh clean help:
	@./run $@
