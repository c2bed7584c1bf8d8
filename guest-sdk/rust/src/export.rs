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
mod start;

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub use {copying::CopyInstance, instance::Instance};

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

/// Exports a type that implements [`CopyFunction`](crate::copy::CopyFunction) as the crate's function, as
/// [`export!`](crate::export!) does for functions with a window.
#[cfg(not(target_arch = "wasm32"))]
#[macro_export]
macro_rules! export_copy {
    ($function:ty) => {
        const _: fn() = $crate::export::copy_function::<$function>;
    };
}

#[cfg(not(target_arch = "wasm32"))]
#[doc(hidden)]
pub fn function<F: crate::Function>() {}

#[cfg(not(target_arch = "wasm32"))]
#[doc(hidden)]
pub fn copy_function<F: crate::copy::CopyFunction>() {}

#[cfg(not(target_arch = "wasm32"))]
#[doc(hidden)]
pub fn snapshot<F: crate::Snapshot>() {}

/// Exports a type that implements [`Function`](crate::Function) as the crate's function, and embeds
/// `function.toml`, which lies beside the crate's `Cargo.toml`, into the module.
///
/// `export!(Type, snapshot)` also exports its [`Snapshot`](crate::Snapshot).
#[cfg(target_arch = "wasm32")]
#[macro_export]
macro_rules! export {
    ($function:ty) => {
        const _: () = { $crate::__export!($function); };
    };
    ($function:ty, snapshot) => {
        const _: () = {
            $crate::__export!($function);

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

/// Exports a type that implements [`CopyFunction`](crate::copy::CopyFunction) as the crate's function, as
/// [`export!`](crate::export!) does for functions with a window.
#[cfg(target_arch = "wasm32")]
#[macro_export]
macro_rules! export_copy {
    ($function:ty) => {
        const _: () = {
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
