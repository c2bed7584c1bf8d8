//! Making a crate a function.

/// What `wit/net.wit` says, in Rust.
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod bindings;
#[cfg(target_arch = "wasm32")]
mod copying;
#[cfg(target_arch = "wasm32")]
mod instance;
#[cfg(target_arch = "wasm32")]
mod messaging;
#[cfg(target_arch = "wasm32")]
mod start;

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub use {copying::CopyInstance, instance::Instance, messaging::MessageInstance};

#[doc(hidden)]
pub use crate::message::handler::{Event, OfConnections, OfMessages};

/// Exports a type that implements [`Function`](crate::Function) as the crate's function, and embeds
/// `function.toml`, which lies beside the crate's `Cargo.toml`, into the module.
///
/// `export!(Type, snapshot)` also exports its [`Snapshot`](crate::Snapshot).
///
/// Natively it only checks the type, so that the same crate can be tested and benchmarked.
#[cfg(not(target_arch = "wasm32"))]
#[macro_export]
macro_rules! export {
    ($function:ty) => {
        const _: fn() = $crate::export::function::<$function>;
    };
    ($function:ty, snapshot) => {
        const _: fn() = $crate::export::snapshot::<$function>;
    };
}

/// Exports a type that implements [`CopyFunction`](crate::copy::CopyFunction) as the crate's
/// function, as [`export!`](crate::export!) does for functions with a window; `export_copy!(Type,
/// snapshot)` also its [`Snapshot`](crate::Snapshot).
#[cfg(not(target_arch = "wasm32"))]
#[macro_export]
macro_rules! export_copy {
    ($function:ty) => {
        const _: fn() = $crate::export::copy_function::<$function>;
    };
    ($function:ty, snapshot) => {
        const _: fn() = $crate::export::copy_function::<$function>;
        const _: fn() = $crate::export::saving::<$function>;
    };
}

/// Exports a type that implements [`MessageFunction`](crate::message::MessageFunction) as the
/// crate's function, as [`export!`](crate::export!) does; `export_message!(Type, snapshot)` also
/// its [`Snapshot`](crate::Snapshot).
#[cfg(not(target_arch = "wasm32"))]
#[macro_export]
macro_rules! export_message {
    ($function:ty) => {
        const _: fn() = $crate::export::message_function::<$function>;
    };
    ($function:ty, snapshot) => {
        const _: fn() = $crate::export::message_function::<$function>;
        const _: fn() = $crate::export::saving::<$function>;
    };
}

/// Exports a type that implements [`ConnectionFunction`](crate::message::ConnectionFunction) as the
/// crate's function, as [`export!`](crate::export!) does; `export_connection!(Type, snapshot)` also
/// its [`Snapshot`](crate::Snapshot).
#[cfg(not(target_arch = "wasm32"))]
#[macro_export]
macro_rules! export_connection {
    ($function:ty) => {
        const _: fn() = $crate::export::connection_function::<$function>;
    };
    ($function:ty, snapshot) => {
        const _: fn() = $crate::export::connection_function::<$function>;
        const _: fn() = $crate::export::saving::<$function>;
    };
}

#[cfg(not(target_arch = "wasm32"))]
#[doc(hidden)]
pub fn message_function<F: crate::message::MessageFunction>() {}

#[cfg(not(target_arch = "wasm32"))]
#[doc(hidden)]
pub fn connection_function<F: crate::message::ConnectionFunction>() {}

#[cfg(not(target_arch = "wasm32"))]
#[doc(hidden)]
pub fn saving<F: crate::Snapshot>() {}

#[cfg(not(target_arch = "wasm32"))]
#[doc(hidden)]
pub fn function<F: crate::Function>() {}

#[cfg(not(target_arch = "wasm32"))]
#[doc(hidden)]
pub fn copy_function<F: crate::copy::CopyFunction>() {}

#[cfg(not(target_arch = "wasm32"))]
#[doc(hidden)]
pub fn snapshot<F: crate::Function + crate::Snapshot>() {}

/// Exports a type that implements [`Function`](crate::Function) as the crate's function, and embeds
/// `function.toml`, which lies beside the crate's `Cargo.toml`, into the module.
///
/// `export!(Type, snapshot)` also exports its [`Snapshot`](crate::Snapshot).
#[cfg(target_arch = "wasm32")]
#[macro_export]
macro_rules! export {
    ($function:ty) => {
        const _: () = {
            $crate::__export!($function);
        };
    };
    ($function:ty, snapshot) => {
        const _: () = {
            $crate::__export!($function);

            $crate::__export_snapshot!();
        };
    };
}

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    ($function:ty) => {
        static INSTANCE: $crate::export::Instance<$function> = $crate::export::Instance::new();

        struct Exported;

        impl $crate::export::bindings::exports::weir::net::packet::Guest for Exported {
            fn configure(
                setup: $crate::export::bindings::exports::weir::net::packet::Setup,
            ) -> Result<(), String> {
                INSTANCE.configure(setup)
            }
            fn process(count: u32) {
                INSTANCE.process(count);
            }
            fn tick(now: u64) {
                INSTANCE.tick(now);
            }
        }
        $crate::export::bindings::export_packet!(
            Exported with_types_in $crate::export::bindings
        );
        $crate::__manifest!();
    };
}

/// Exports a type that implements [`CopyFunction`](crate::copy::CopyFunction) as the crate's
/// function, as [`export!`](crate::export!) does for functions with a window; `export_copy!(Type,
/// snapshot)` also its [`Snapshot`](crate::Snapshot).
#[cfg(target_arch = "wasm32")]
#[macro_export]
macro_rules! export_copy {
    ($function:ty) => {
        const _: () = {
            $crate::__export_copy!($function);
        };
    };
    ($function:ty, snapshot) => {
        const _: () = {
            $crate::__export_copy!($function);
            $crate::__export_snapshot!();
        };
    };
}

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
#[macro_export]
macro_rules! __export_copy {
    ($function:ty) => {
        static INSTANCE: $crate::export::CopyInstance<$function> =
            $crate::export::CopyInstance::new();

        struct Exported;

        impl $crate::export::bindings::copying::exports::weir::net::packet_copy::Guest
            for Exported
        {
            fn configure(
                setup: $crate::export::bindings::weir::net::types::Setup,
            ) -> Result<(), String> {
                INSTANCE.configure(setup)
            }
            fn process(
                packet: Vec<u8>,
                port: u32,
                now: u64,
            ) -> $crate::export::bindings::copying::exports::weir::net::packet_copy::Outcome
            {
                INSTANCE.process(packet, port, now)
            }
            fn tick(now: u64) {
                INSTANCE.tick(now);
            }
        }
        $crate::export::bindings::copying::export_packet_copy!(
            Exported with_types_in $crate::export::bindings::copying
        );
        $crate::__manifest!();
    };
}

/// Exports a type that implements [`MessageFunction`](crate::message::MessageFunction) as the
/// crate's function, as [`export!`](crate::export!) does; `export_message!(Type, snapshot)` also
/// its [`Snapshot`](crate::Snapshot).
#[cfg(target_arch = "wasm32")]
#[macro_export]
macro_rules! export_message {
    ($function:ty) => {
        const _: () = {
            $crate::__export_message!($function);
        };
    };
    ($function:ty, snapshot) => {
        const _: () = {
            $crate::__export_message!($function);
            $crate::__export_snapshot!();
        };
    };
}

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
#[macro_export]
macro_rules! __export_message {
    ($function:ty) => {
        static INSTANCE: $crate::export::MessageInstance<$crate::export::OfMessages<$function>> =
            $crate::export::MessageInstance::new();

        struct Exported;

        impl $crate::export::bindings::messages::exports::weir::net::message::Guest for Exported {
            fn configure(
                setup: $crate::export::bindings::weir::net::types::Setup,
            ) -> Result<u32, String> {
                INSTANCE.configure(setup)
            }
            fn request_head(exchange: u32, head: u32) -> u64 {
                INSTANCE.head($crate::export::Event::RequestHead, exchange, head)
            }
            fn request_body(exchange: u32, offset: u32, length: u32, last: bool) -> u64 {
                INSTANCE.piece($crate::export::Event::RequestBody, exchange, offset, length, last)
            }
            fn response_head(exchange: u32, head: u32) -> u64 {
                INSTANCE.head($crate::export::Event::ResponseHead, exchange, head)
            }
            fn response_body(exchange: u32, offset: u32, length: u32, last: bool) -> u64 {
                INSTANCE.piece($crate::export::Event::ResponseBody, exchange, offset, length, last)
            }
            fn resume(
                exchange: u32,
                token: u32,
                status: u32,
                head: u32,
                body: u32,
                length: u32,
            ) -> u64 {
                INSTANCE.resume(exchange, token, status, head, body, length)
            }
            fn ended(exchange: u32, how: u32, upstream: u32, nanoseconds: u64) {
                INSTANCE.ended(exchange, how, upstream, nanoseconds);
            }
            fn tick(now: u64) {
                INSTANCE.tick(now);
            }
        }
        $crate::export::bindings::messages::export_messages!(
            Exported with_types_in $crate::export::bindings::messages
        );
        $crate::__manifest!();
    };
}

/// Exports a type that implements [`ConnectionFunction`](crate::message::ConnectionFunction) as the
/// crate's function, as [`export!`](crate::export!) does; `export_connection!(Type, snapshot)` also
/// its [`Snapshot`](crate::Snapshot).
#[cfg(target_arch = "wasm32")]
#[macro_export]
macro_rules! export_connection {
    ($function:ty) => {
        const _: () = {
            $crate::__export_connection!($function);
        };
    };
    ($function:ty, snapshot) => {
        const _: () = {
            $crate::__export_connection!($function);
            $crate::__export_snapshot!();
        };
    };
}

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
#[macro_export]
macro_rules! __export_connection {
    ($function:ty) => {
        static INSTANCE: $crate::export::MessageInstance<$crate::export::OfConnections<$function>> =
            $crate::export::MessageInstance::new();

        struct Exported;

        impl $crate::export::bindings::connections::exports::weir::net::connection::Guest for Exported {
            fn configure(
                setup: $crate::export::bindings::weir::net::types::Setup,
            ) -> Result<u32, String> {
                INSTANCE.configure(setup)
            }
            fn opened(exchange: u32, head: u32) -> u64 {
                INSTANCE.head($crate::export::Event::Opened, exchange, head)
            }
            fn data(
                exchange: u32,
                from_upstream: bool,
                offset: u32,
                length: u32,
                last: bool,
            ) -> u64 {
                let event = if from_upstream {
                    $crate::export::Event::FromUpstream
                } else {
                    $crate::export::Event::FromClient
                };
                INSTANCE.piece(event, exchange, offset, length, last)
            }
            fn resume(
                exchange: u32,
                token: u32,
                status: u32,
                head: u32,
                body: u32,
                length: u32,
            ) -> u64 {
                INSTANCE.resume(exchange, token, status, head, body, length)
            }
            fn ended(exchange: u32, how: u32, upstream: u32, nanoseconds: u64) {
                INSTANCE.ended(exchange, how, upstream, nanoseconds);
            }
            fn tick(now: u64) {
                INSTANCE.tick(now);
            }
        }
        $crate::export::bindings::connections::export_connections!(
            Exported with_types_in $crate::export::bindings::connections
        );
        $crate::__manifest!();
    };
}

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
#[macro_export]
macro_rules! __export_snapshot {
    () => {
        impl $crate::export::bindings::saving::exports::weir::net::snapshot::Guest for Exported {
            fn save() -> Vec<u8> {
                INSTANCE.save()
            }
            fn restore(saved: Vec<u8>) -> Result<(), String> {
                INSTANCE.restore(&saved)
            }
        }
        $crate::export::bindings::saving::export_snapshot!(
            Exported with_types_in $crate::export::bindings::saving
        );
    };
}

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
#[macro_export]
macro_rules! __manifest {
    () => {
        const MANIFEST: &[u8] =
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/function.toml"));
        #[unsafe(link_section = "weir:manifest")]
        #[used]
        static EMBEDDED: [u8; MANIFEST.len()] = *MANIFEST.first_chunk().unwrap();
    };
}
