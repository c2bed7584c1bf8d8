//! Making a crate a function.

/// Exports a type that implements [`Function`](crate::Function) as the crate's function, and embeds
/// `function.toml`, which lies beside the crate's `Cargo.toml`, into the module.
///
/// `export!(Type, snapshot)` also exports its [`Snapshot`](crate::Snapshot).
///
/// Natively it only checks the type, so that the same crate can be tested and benchmarked.
#[macro_export]
macro_rules! export {
    ($function:ty) => {
        const _: fn() = $crate::export::function::<$function>;
    };
    ($function:ty, snapshot) => {
        const _: fn() = $crate::export::snapshot::<$function>;
    };
}

#[doc(hidden)]
pub fn function<F: crate::Function>() {}

#[doc(hidden)]
pub fn snapshot<F: crate::Snapshot>() {}
