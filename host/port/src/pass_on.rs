//! Ports around other ports.

/// In an implementation of [`Port`](crate::Port) for a port around another, in this field: passes
/// these methods on to the one within as they are; `place_flow` stands for `forget_flows`, too.
/// What such a port does itself it writes out.
#[macro_export]
macro_rules! pass_on {
    ($inner:ident: $($method:ident),+ $(,)?) => { $($crate::pass_on!(@ $method $inner);)+ };
    (@ name $inner:ident) => {
        fn name(&self) -> &str {
            self.$inner.name()
        }
    };
    (@ kind $inner:ident) => {
        fn kind(&self) -> &'static str {
            self.$inner.kind()
        }
    };
    (@ attach $inner:ident) => {
        fn attach(&mut self, pool: &mut $crate::Pool) -> Result<(), $crate::PortError> {
            self.$inner.attach(pool)
        }
    };
    (@ receive $inner:ident) => {
        fn receive(
            &mut self,
            pool: &mut $crate::Pool,
            into: &mut Vec<$crate::Packet>,
            max: usize,
        ) -> Result<$crate::Received, $crate::PortError> {
            self.$inner.receive(pool, into, max)
        }
    };
    (@ send $inner:ident) => {
        fn send(
            &mut self,
            pool: &mut $crate::Pool,
            packets: &mut Vec<$crate::Packet>,
        ) -> Result<(), $crate::PortError> {
            self.$inner.send(pool, packets)
        }
    };
    (@ finish $inner:ident) => {
        fn finish(&mut self, pool: &mut $crate::Pool) -> Result<(), $crate::PortError> {
            self.$inner.finish(pool)
        }
    };
    (@ statistics $inner:ident) => {
        fn statistics(&self) -> &$crate::PortStatistics {
            self.$inner.statistics()
        }
    };
    (@ is_kernel $inner:ident) => {
        fn is_kernel(&self) -> bool {
            self.$inner.is_kernel()
        }
    };
    (@ reaches_kernel $inner:ident) => {
        fn reaches_kernel(&self) -> bool {
            self.$inner.reaches_kernel()
        }
    };
    (@ to_kernel $inner:ident) => {
        fn to_kernel(
            &mut self,
            pool: &mut $crate::Pool,
            packets: &mut Vec<$crate::Packet>,
        ) -> Result<(), $crate::PortError> {
            self.$inner.to_kernel(pool, packets)
        }
    };
    (@ steering $inner:ident) => {
        fn steering(&self) -> Option<std::sync::Arc<dyn $crate::Steer>> {
            self.$inner.steering()
        }
    };
    (@ place_flow $inner:ident) => {
        fn place_flow(&mut self, flow: &$crate::Key, to: $crate::Moved) -> bool {
            self.$inner.place_flow(flow, to)
        }

        fn forget_flows(&mut self) {
            self.$inner.forget_flows();
        }
    };
    (@ spreading $inner:ident) => {
        fn spreading(&self) -> $crate::Spreading {
            self.$inner.spreading()
        }
    };
    (@ placement $inner:ident) => {
        fn placement(&self) -> Option<$crate::Placement> {
            self.$inner.placement()
        }
    };
    (@ inspector $inner:ident) => {
        fn inspector(&self) -> Option<std::sync::Arc<dyn $crate::Inspect>> {
            self.$inner.inspector()
        }
    };
}
