//! The HTTP side: connections, and the faults, which strike before and behind the real service.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::Shared;
use super::service::{Keys, Service};
use crate::fault::{Kind, Operation};

type Answer = Response<s3s::Body>;

/// Serves until the runtime ends.
pub(super) async fn run(
    shared: Arc<Shared>,
    listener: std::net::TcpListener,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
) {
    let mut builder = S3ServiceBuilder::new(Service(Arc::clone(&shared)));
    builder.set_auth(Keys(Arc::clone(&shared)));
    let service = builder.build();
    let mut listener = TcpListener::from_std(listener).ok();
    let mut changes = shared.faults.changes();
    loop {
        if shared.faults.is_down() {
            listener = None;
            if changes.changed().await.is_err() {
                return;
            }
            continue;
        }
        let accepting = match &listener {
            Some(listener) => listener,
            None => match TcpListener::bind(address).await {
                Ok(bound) => listener.insert(bound),
                Err(_) => {
                    // Somebody else's connection had the port for a moment.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            },
        };
        tokio::select! {
            accepted = accepting.accept() => {
                if let Ok((stream, _)) = accepted {
                    tokio::spawn(welcome(Arc::clone(&shared), service.clone(), stream, tls.clone()));
                }
            }
            _ = changes.changed() => {}
        }
    }
}

async fn welcome(shared: Arc<Shared>, service: S3Service, stream: TcpStream, tls: Option<TlsAcceptor>) {
    // Without it each answer waits for a timer of the other side.
    let _ = stream.set_nodelay(true);
    match tls {
        None => connection(shared, service, stream).await,
        // A client that does not trust us goes away.
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                connection(shared, service, stream).await;
            }
        }
    }
}

async fn connection(shared: Arc<Shared>, service: S3Service, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut changes = shared.faults.changes();
    let for_requests = Arc::clone(&shared);
    let answers = service_fn(move |request| {
        let (shared, service) = (Arc::clone(&for_requests), service.clone());
        async move { answer(&shared, &service, request).await }
    });
    let mut serving = std::pin::pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), answers));
    loop {
        tokio::select! {
            // However it ended: the client sees it.
            _ = serving.as_mut() => return,
            changed = changes.changed() => {
                if changed.is_err() || shared.faults.is_down() {
                    return;
                }
            }
        }
    }
}

fn operation(request: &Request<Incoming>) -> Operation {
    let query = request.uri().query().unwrap_or_default();
    let has = |name: &str| query.split('&').any(|part| part.split('=').next() == Some(name));
    let in_bucket = request.uri().path().trim_matches('/').contains('/');
    match *request.method() {
        Method::DELETE if has("uploadId") => Operation::Put,
        Method::DELETE => Operation::Delete,
        Method::POST if has("delete") => Operation::Delete,
        Method::PUT | Method::POST => Operation::Put,
        _ if !in_bucket => Operation::List,
        _ => Operation::Get,
    }
}

fn is_conditional(request: &Request<Incoming>) -> bool {
    let has = |name: &'static str| request.headers().contains_key(HeaderName::from_static(name));
    request.method() == Method::PUT && (has("if-none-match") || has("if-match"))
}

fn refusal(status: StatusCode, code: &str) -> Answer {
    let xml = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code></Error>");
    let mut answer = Response::new(s3s::Body::from(Bytes::from(xml)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/xml"));
    answer
}

async fn answer(shared: &Shared, service: &S3Service, request: Request<Incoming>) -> Result<Answer, io::Error> {
    shared.note(format!("{} {}", request.method(), request.uri()));
    let mut changes = shared.faults.changes();
    let kinds = shared.faults.strike(operation(&request), request.uri().path());
    for kind in &kinds {
        match kind {
            Kind::Silent => {
                let _ = changes.changed().await;
                return Err(io::ErrorKind::TimedOut.into());
            }
            Kind::Slow(time) => tokio::time::sleep(*time).await,
            Kind::Deny => return Ok(refusal(StatusCode::FORBIDDEN, "AccessDenied")),
            // It came on a connection that is still to be cut.
            Kind::Down => return Err(io::ErrorKind::ConnectionReset.into()),
            Kind::Break => {
                // Some of the body has come, if there is one.
                let _ = request.into_body().frame().await;
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            Kind::Before => return Ok(refusal(StatusCode::SERVICE_UNAVAILABLE, "SlowDown")),
            Kind::Conflict if is_conditional(&request) => {
                return Ok(refusal(StatusCode::CONFLICT, "ConditionalRequestConflict"));
            }
            Kind::After | Kind::Cut | Kind::Conflict => {}
        }
    }
    let answered = service.call(request.map(s3s::Body::from)).await;
    let answer = answered.map_err(|_| io::Error::other("the service failed"))?;
    if kinds.contains(&Kind::After) {
        return Ok(refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"));
    }
    if !kinds.contains(&Kind::Cut) {
        return Ok(answer);
    }
    let (mut parts, body) = answer.into_parts();
    let Ok(whole) = body.collect().await else { return Err(io::ErrorKind::UnexpectedEof.into()) };
    let whole = whole.to_bytes();
    parts.headers.insert(CONTENT_LENGTH, whole.len().into());
    let half = Ok(Frame::data(whole.slice(..whole.len() / 2)));
    let cut = stream::iter([half, Err(io::Error::from(io::ErrorKind::ConnectionReset))]);
    Ok(Response::from_parts(parts, s3s::Body::http_body_unsync(StreamBody::new(cut))))
}
