//! The one integration binary. Its tests run side by side: each has its own directories, schema and ports.

mod agents;
mod api;
mod artifacts;
mod caches;
mod console;
mod container;
mod crash;
mod delivery;
mod demo;
mod dependencies;
mod examples;
mod gates;
mod git;
mod janitor;
mod liveness;
mod logs;
mod partition;
mod redact;
mod results;
mod sandbox;
mod store;
mod tidy;
mod torture;
mod trouble;
mod unprivileged;
mod workers;
