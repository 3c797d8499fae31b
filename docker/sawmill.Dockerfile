# Sawmill itself. Build it from the root of the repository:
#   docker build -f docker/sawmill.Dockerfile -t sawmill .
# The program is linked statically, because workers mount it into the containers of jobs, whatever image those are of.
FROM rust:1-trixie AS build
RUN apt-get update && apt-get install -y --no-install-recommends cmake zlib1g-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
ENV SQLX_OFFLINE=true RUSTFLAGS="-C target-feature=+crt-static"
RUN cargo build --locked --release --target "$(rustc -vV | sed -n 's/^host: //p')" \
    && install -D target/*/release/sawmill /out/sawmill

FROM debian:trixie-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git git-lfs iptables openssh-client \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/sawmill /usr/local/bin/sawmill
ENTRYPOINT ["sawmill"]
CMD ["up"]
