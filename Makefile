# The commands that people and CI use. `make test` is all there is to know: it installs what the suite needs (as root on
# Debian; else it says what is missing), starts it, runs everything and stops it again.

# Shared by all checkouts, so that a fresh clone does not build the dependencies again.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/sawmill-target
# The queues that the benchmark compares ours with would otherwise be built against whatever DATABASE_URL names.
export SQLX_OFFLINE = true
# Many tests wait for processes, and some for each other; more threads than processors keep these busy.
export RUST_TEST_THREADS ?= 3
# What a failed test says is to be the end of the output, and not where it stood in the runtime (make test RUST_BACKTRACE=1).
export RUST_BACKTRACE = 0

.PHONY: test containers lint demo bench static fmt

test:
	tests/prepare.sh
	tests/with-services.sh cargo test --locked --quiet
	SAWMILL_TEST_STRATEGY=recycled tests/with-services.sh cargo test --locked --quiet --test sawmill -- git:: delivery:: crash::
	SAWMILL_TEST_LODGING=containers tests/with-services.sh cargo test --locked --quiet --test sawmill -- \
		gates:: workers:: artifacts:: results::a_prompt results::of_a results::what delivery::recycled \
		crash::cancelled crash::revised crash::signalled

# All that runs jobs, with these in containers; a part of it is in `make test`. A user who may not reach the engine has none, and the store
# runs none. Each of torture's jobs needs a container, which takes longer to make than the job: there are fewer.
containers:
	tests/prepare.sh
	SAWMILL_TEST_LODGING=containers SAWMILL_TORTURE_SECONDS=60 SAWMILL_TORTURE_JOBS=200 \
		tests/with-services.sh cargo test --locked --quiet --test sawmill -- --skip unprivileged:: --skip store::

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items --quiet

demo:
	cargo run --locked --release -- demo

bench:
	tests/prepare.sh
	SAWMILL_TEST_FSYNC=on tests/with-services.sh cargo bench --locked

# A program that needs no C library of anybody's: below target/, in the directory that is named by this machine's kind.
static:
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release --bin sawmill --target "$$(rustc -vV | sed -n 's/^host: //p')"

fmt:
	cargo fmt
