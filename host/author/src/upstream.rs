//! The upstream of a test: answers as it is told, and notes what it got.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::suite::Response;

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) fields: hyper::HeaderMap,
    pub(crate) body: Vec<u8>,
}

#[derive(Debug, Default)]
pub(crate) struct Script {
    /// What it answers.
    pub(crate) response: Response,
    /// What came since this was looked at.
    pub(crate) got: Vec<Got>,
}

/// An upstream that listens.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    script: Arc<Mutex<Script>>,
}

impl Upstream {
    /// Listens on the loopback interface as long as the runtime is there.
    pub(crate) async fn start() -> Result<Self> {
        let listener =
            TcpListener::bind("127.0.0.1:0").await.context("listening as the upstream")?;
        let upstream = Self { address: listener.local_addr()?, script: Arc::default() };
        let serving = upstream.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serving.clone();
                let service = service_fn(move |request| serving.clone().answer(request));
                let connection =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        Ok(upstream)
    }

    /// What it answers and got.
    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(
        self,
        request: hyper::Request<Incoming>,
    ) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let mut script = self.script();
        script.got.push(Got {
            method: parts.method.to_string(),
            path,
            fields: parts.headers,
            body,
        });
        let mut response = hyper::Response::builder().status(script.response.status);
        for (name, value) in &script.response.fields {
            response = response.header(name, value);
        }
        let body = Full::new(Bytes::from(script.response.body.clone()));
        // The test looked at the fields before.
        Ok(response.body(body).unwrap_or_default())
    }
}
