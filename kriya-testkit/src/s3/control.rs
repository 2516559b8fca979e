//! The control endpoint, for servers in another process: `PUT /faults` with one fault a line (see
//! [`Fault`]), `GET /faults`.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::Shared;
use crate::fault::Fault;

/// Serves until the runtime ends.
pub(super) async fn run(shared: Arc<Shared>, listener: std::net::TcpListener) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let answers = service_fn(|request| answer(&shared, request));
            // A connection that breaks concerns nobody else.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answers).await;
        });
    }
}

fn text(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
}

async fn answer(shared: &Shared, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    Ok(match (method, path.as_str()) {
        (Method::GET, "/faults") => {
            let lines = shared.faults.get().iter().map(|fault| format!("{fault:?}\n")).collect();
            text(StatusCode::OK, lines)
        }
        (Method::PUT, "/faults") => {
            let body = match request.into_body().collect().await {
                Ok(body) => body.to_bytes(),
                Err(error) => return Ok(text(StatusCode::BAD_REQUEST, format!("{error}\n"))),
            };
            let lines = String::from_utf8_lossy(&body).into_owned();
            let faults = lines.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::parse::<Fault>);
            match faults.collect::<Result<Vec<_>, _>>() {
                Ok(faults) => {
                    let count = faults.len();
                    shared.faults.set(faults);
                    text(StatusCode::OK, format!("{count} faults\n"))
                }
                Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
            }
        }
        _ => text(StatusCode::NOT_FOUND, "PUT or GET /faults\n".to_owned()),
    })
}
