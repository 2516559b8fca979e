//! The S3 server as clients see it, and what `lsmstore` makes of it: over real HTTP, with real signatures.

mod another_server;
mod failures_are_told_apart;
mod https;
mod looking_from_outside;
mod places;
mod stores_over_http;
mod the_server_speaks_s3;
mod two_writers;
