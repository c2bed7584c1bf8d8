//! Listeners, as the gateway is told of them.

use std::rc::Rc;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLockReadGuard};

use http::{Response, StatusCode, request};
use weir_control::engine::EngineError;
use weir_exchange::{
    Chain, ChainFactory, Denied, Environment, Interests, Kind, Middleware, Origin, Passage, Pieces,
    Reply, Stage, Step, Upstreams,
};
use weir_gateway::{
    Certificate, ClientCertificates, ForwardedFields, GatewayError, HealthCheck, Identity, Limits,
    ListenerConfig, Prefix, Protocol, ProxyHeader, Retry, Target, Timeouts, UpstreamConfig,
    UpstreamTls,
};
use weir_spec::IpPrefix;
use weir_spec::listener::{self, Listener, RetryOn};

use super::Messages;

/// Makes a chain's part on the thread that it is for.
pub(super) type Make = Box<dyn FnOnce(Rc<dyn Environment>) -> Chain + Send>;

/// The same, and what it was made for.
type MakeFor = (Arc<Seen>, Make);

/// A listener's upstreams as the chain's part on a thread sees them. Their number is known when the
/// part is made ready, how they are when the listener has it.
pub(super) struct Seen {
    count: usize,
    upstreams: OnceLock<Arc<dyn Upstreams>>,
}

impl Seen {
    pub(super) fn of(listener: &Listener) -> Arc<Self> {
        Arc::new(Self { count: listener.upstream.len(), upstreams: OnceLock::new() })
    }
}

impl Upstreams for Seen {
    fn count(&self) -> usize {
        self.count
    }

    fn healthy(&self, upstream: usize) -> bool {
        self.upstreams.get().is_none_or(|upstreams| upstreams.healthy(upstream))
    }

    fn active(&self, upstream: usize) -> u32 {
        self.upstreams.get().map_or(0, |upstreams| upstreams.active(upstream))
    }
}

/// Parts of a chain that are ready, one for each thread, with the upstreams that they see.
pub(super) struct Parts(Mutex<Vec<Option<MakeFor>>>);

impl Parts {
    pub(super) fn new(parts: Vec<MakeFor>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(parts.into_iter().map(Some).collect())))
    }
}

impl ChainFactory for Parts {
    fn stage(&self, thread: usize, upstreams: Arc<dyn Upstreams>) -> Result<Stage, String> {
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let make = parts.get_mut(thread).and_then(Option::take);
        let (seen, make) = make.ok_or_else(|| format!("thread {thread} has it already"))?;
        // It was not there before.
        let _ = seen.upstreams.set(upstreams);
        Ok(Box::new(move |lent| Ok(make(lent.environment))))
    }
}

/// What a listener has whose chain is not deployed: nobody gets through. Requests are answered,
/// connections without any are reset.
#[derive(Clone, Copy)]
struct NotDeployed(listener::Protocol);

impl ChainFactory for NotDeployed {
    fn stage(&self, _: usize, _: Arc<dyn Upstreams>) -> Result<Stage, String> {
        let this = *self;
        Ok(Box::new(move |_| Ok(Chain::native(Rc::new(this)))))
    }
}

impl Middleware for NotDeployed {
    fn interests(&self) -> Interests {
        let opened = self.0 == listener::Protocol::Tcp;
        Interests { request_head: true, opened, ..Interests::default() }
    }

    fn open(&self, _: &Origin, _: Kind) -> Rc<dyn Passage> {
        Rc::new(Refusal)
    }
}

struct Refusal;

impl Passage for Refusal {
    fn request_head<'a>(&'a self, _: &'a mut request::Parts, _: Option<u64>) -> Reply<'a, Step> {
        let mut response = Response::new(Pieces::new());
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response.body_mut().push("the listener's chain is not deployed\n".into());
        response.extensions_mut().insert(Denied::NoChain);
        Reply::Now(Step::Answer(response))
    }

    fn opened(&self) -> Reply<'_, Step> {
        let mut response = Response::new(Pieces::new());
        response.extensions_mut().insert(Denied::NoChain);
        Reply::Now(Step::Answer(response))
    }
}

impl Messages {
    /// As long as the answer is there, the gateway is not drained.
    ///
    /// # Errors
    /// When it was.
    pub(super) fn not_drained(&self) -> Result<RwLockReadGuard<'_, bool>, EngineError> {
        let drained = self.drained.read().unwrap_or_else(PoisonError::into_inner);
        if *drained {
            let why = "the host stops, and does not listen any more";
            return Err(EngineError::Conflict(why.to_owned()));
        }
        Ok(drained)
    }

    /// Tells the gateway of a listener whose chain, if it has one, is not deployed.
    ///
    /// # Errors
    /// What keeps the gateway from having it.
    pub(super) fn listen(&self, listener: &Listener) -> Result<(), GatewayError> {
        let Some(gateway) = self.gateway.get() else { return Ok(()) };
        let Ok(_open) = self.not_drained() else { return Ok(()) };
        gateway.set(config(listener, None))
    }
}

/// A listener as the gateway is told of it, with its chain's parts.
pub(super) fn config(listener: &Listener, chain: Option<Arc<Parts>>) -> ListenerConfig {
    let chain: Option<Arc<dyn ChainFactory>> = match (chain, &listener.chain) {
        (Some(parts), _) => Some(parts),
        (None, Some(_)) => Some(Arc::new(NotDeployed(listener.protocol))),
        (None, None) => None,
    };
    let number = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    let bytes = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let own = |(certificate, key)| Identity { certificate, key };
    let upstreams = listener.upstream.iter().map(|upstream| UpstreamConfig {
        address: match &upstream.address {
            weir_spec::Target::Address(address) => Target::Address(*address),
            weir_spec::Target::Name { host, port } => {
                Target::Name { host: host.as_str().into(), port: *port }
            }
        },
        weight: upstream.weight,
        tls: upstream.server_name.clone().filter(|_| upstream.tls).map(|server_name| UpstreamTls {
            server_name,
            authorities: upstream.authorities.clone(),
            identity: upstream.certificate.clone().zip(upstream.key.clone()).map(own),
        }),
        http2: upstream.http2,
    });
    let certificates = listener.tls.iter().map(|tls| Certificate {
        certificate: tls.certificate.clone(),
        key: tls.key.clone(),
        names: tls.names.clone(),
    });
    let (timeouts, limits, retry) = (&listener.timeouts, &listener.limits, &listener.retry);
    let statuses = retry.on.iter().filter_map(|on| match on {
        RetryOn::Status(status) => Some(*status),
        RetryOn::Connect | RetryOn::Reset => None,
    });
    ListenerConfig {
        name: listener.name.to_string(),
        addresses: listener.address.clone(),
        device: listener.device.clone(),
        transparent: listener.transparent,
        protocol: match listener.protocol {
            listener::Protocol::Http => Protocol::Http,
            listener::Protocol::Tcp => Protocol::Tcp,
        },
        chain,
        upstreams: upstreams.collect(),
        resolve: listener.resolve.get(),
        certificates: certificates.collect(),
        client_certificates: listener.client_certificates.as_ref().map(|of| ClientCertificates {
            authorities: of.authorities.clone(),
            revoked: of.revoked.clone(),
            enforce_next_update: of.enforce_next_update,
            required: of.required,
        }),
        proxy_protocol: listener.proxy_protocol,
        proxy_protocol_from: listener.proxy_protocol_from.as_ref().map(|from| {
            let prefix = |p: &IpPrefix| Prefix { address: p.address(), length: p.length() };
            from.iter().map(prefix).collect()
        }),
        upstream_proxy_protocol: match listener.upstream_proxy_protocol {
            listener::ProxyHeader::None => None,
            listener::ProxyHeader::V1 => Some(ProxyHeader::V1),
            listener::ProxyHeader::V2 => Some(ProxyHeader::V2),
        },
        forwarded: match listener.forwarded {
            listener::ForwardedFields::Append => ForwardedFields::Append,
            listener::ForwardedFields::Replace => ForwardedFields::Replace,
            listener::ForwardedFields::Keep => ForwardedFields::Keep,
        },
        timeouts: Timeouts {
            header: timeouts.header.get(),
            body: timeouts.body.get(),
            connect: timeouts.connect.get(),
            response: timeouts.response.get(),
            idle: timeouts.idle.get(),
            tunnel: timeouts.tunnel.get(),
            upstream_idle: timeouts.upstream_idle.get(),
        },
        limits: Limits {
            connections: number(limits.connections),
            requests_per_connection: limits.requests_per_connection.unwrap_or(u64::MAX),
            head: bytes(limits.head.get()),
            fields: usize::from(limits.fields),
            body: limits.body.map(weir_spec::Size::get),
            streams: limits.streams,
            upstream_connections: limits.upstream_connections.map(number),
            upstream_idle: number(limits.upstream_idle),
        },
        retry: Retry {
            attempts: retry.attempts,
            budget: retry.budget.into(),
            connect: retry.on.contains(&RetryOn::Connect),
            reset: retry.on.contains(&RetryOn::Reset),
            statuses: statuses.collect(),
        },
        health: listener.health.as_ref().map(|health| HealthCheck {
            path: health.path.clone(),
            host: health.host.clone(),
            interval: health.interval.get(),
            timeout: health.timeout.get(),
            healthy: health.healthy,
            unhealthy: health.unhealthy,
        }),
        log: listener.log.as_ref().map(|log| log.file.clone()),
    }
}
