# haul in a container: `docker build --tag haul .`; docs/serve.md says how to run it.
FROM rust:1-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends build-essential
WORKDIR /src
COPY . .
RUN cargo build --release --locked

FROM debian:stable-slim
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
RUN useradd --system haul
COPY --from=build /src/target/release/haul /usr/local/bin/haul
USER haul
WORKDIR /project
ENTRYPOINT ["haul"]
CMD ["serve", "--log", "json", "--listen", "0.0.0.0:9464"]
