//! How much linear memory a component starts with, and how much its tables take: those of each core
//! module as often as it is instantiated.

use wasmparser::{
    ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind,
    ComponentTypeRef, Encoding, Instance, Payload,
};
use weir_layout::WASM_PAGE;

use crate::memory_ledger::TABLE_ELEMENT;

/// Memory and tables of a module, or of a component with all that it instantiates.
#[derive(Clone, Copy, Debug, Default)]
struct Start {
    bytes: u64,
    memories: u64,
    /// Instances of modules that come from elsewhere, as an import or another instance's export.
    strange: u64,
}

impl Start {
    /// Of a module that is not known: it is in the upload somewhere.
    const STRANGE: Self = Self { bytes: 0, memories: 0, strange: 1 };
    /// Of a component that is not known. No tool makes such.
    const ENDLESS: Self = Self { bytes: u64::MAX, memories: u64::MAX, strange: 0 };

    fn add(&mut self, more: Self) {
        self.bytes = self.bytes.saturating_add(more.bytes);
        self.memories = self.memories.saturating_add(more.memories);
        self.strange = self.strange.saturating_add(more.strange);
    }
}

/// A module or component that is being read, with what it can name by number.
#[derive(Debug, Default)]
struct Level {
    is_module: bool,
    start: Start,
    modules: Vec<Start>,
    components: Vec<Start>,
}

/// Reads a valid component, payload by payload.
#[derive(Debug, Default)]
pub(crate) struct Starts {
    levels: Vec<Level>,
    /// What the modules have at most.
    largest: Start,
    whole: Start,
}

impl Starts {
    /// Bytes of linear memory and tables, all read, in whole Wasm pages: what its tables have of
    /// one more is nothing, since every language makes some.
    pub(crate) fn bytes(&self) -> u64 {
        let Start { bytes, strange, .. } = self.whole;
        let bytes = bytes.saturating_add(strange.saturating_mul(self.largest.bytes));
        bytes - bytes % WASM_PAGE as u64
    }

    /// Linear memories, all read.
    pub(crate) fn memories(&self) -> u64 {
        let Start { memories, strange, .. } = self.whole;
        memories.saturating_add(strange.saturating_mul(self.largest.memories))
    }

    /// What comes next.
    pub(crate) fn read(&mut self, payload: &Payload<'_>) {
        if let Payload::Version { encoding, .. } = payload {
            let is_module = *encoding == Encoding::Module;
            return self.levels.push(Level { is_module, ..Level::default() });
        }
        if let Payload::End(_) = payload {
            let Some(Level { is_module, start, .. }) = self.levels.pop() else { return };
            if is_module {
                self.largest.bytes = self.largest.bytes.max(start.bytes);
                self.largest.memories = self.largest.memories.max(start.memories);
            }
            match self.levels.last_mut() {
                Some(around) if is_module => around.modules.push(start),
                Some(around) => around.components.push(start),
                None => self.whole = start,
            }
            return;
        }
        if let Payload::ComponentAliasSection(section) = payload {
            section.clone().into_iter().flatten().for_each(|alias| self.alias(&alias));
        }
        if let Some(level) = self.levels.last_mut() {
            level.read(payload);
        }
    }

    fn alias(&mut self, alias: &ComponentAlias<'_>) {
        let depth = self.levels.len();
        let outer = |count: u32| self.levels.get(depth.checked_sub(1 + count as usize)?);
        let (module, component) = match *alias {
            ComponentAlias::InstanceExport { kind: ComponentExternalKind::Module, .. } => {
                (Some(Start::STRANGE), None)
            }
            ComponentAlias::InstanceExport { kind: ComponentExternalKind::Component, .. } => {
                (None, Some(Start::ENDLESS))
            }
            ComponentAlias::Outer { kind: ComponentOuterAliasKind::CoreModule, count, index } => {
                (Some(outer(count).map_or(Start::ENDLESS, |level| level.module(index))), None)
            }
            ComponentAlias::Outer { kind: ComponentOuterAliasKind::Component, count, index } => {
                (None, Some(outer(count).map_or(Start::ENDLESS, |level| level.component(index))))
            }
            _ => (None, None),
        };
        if let Some(level) = self.levels.last_mut() {
            level.modules.extend(module);
            level.components.extend(component);
        }
    }
}

impl Level {
    fn module(&self, index: u32) -> Start {
        self.modules.get(index as usize).copied().unwrap_or(Start::ENDLESS)
    }

    fn component(&self, index: u32) -> Start {
        self.components.get(index as usize).copied().unwrap_or(Start::ENDLESS)
    }

    fn read(&mut self, payload: &Payload<'_>) {
        match payload {
            Payload::MemorySection(section) => {
                for memory in section.clone().into_iter().flatten() {
                    let bytes = memory.initial.saturating_mul(WASM_PAGE as u64);
                    self.start.add(Start { bytes, memories: 1, strange: 0 });
                }
            }
            Payload::TableSection(section) => {
                for table in section.clone().into_iter().flatten() {
                    let bytes = table.ty.initial.saturating_mul(TABLE_ELEMENT as u64);
                    self.start.add(Start { bytes, ..Start::default() });
                }
            }
            Payload::InstanceSection(section) => {
                for instance in section.clone().into_iter().flatten() {
                    if let Instance::Instantiate { module_index, .. } = instance {
                        self.start.add(self.module(module_index));
                    }
                }
            }
            Payload::ComponentInstanceSection(section) => {
                for instance in section.clone().into_iter().flatten() {
                    if let ComponentInstance::Instantiate { component_index, .. } = instance {
                        self.start.add(self.component(component_index));
                    }
                }
            }
            Payload::ComponentImportSection(section) => {
                for import in section.clone().into_iter().flatten() {
                    match import.ty {
                        ComponentTypeRef::Module(_) => self.modules.push(Start::STRANGE),
                        ComponentTypeRef::Component(_) => self.components.push(Start::ENDLESS),
                        _ => {}
                    }
                }
            }
            // What is exported has another number from then on, too.
            Payload::ComponentExportSection(section) => {
                for export in section.clone().into_iter().flatten() {
                    match export.kind {
                        ComponentExternalKind::Module => {
                            self.modules.push(self.module(export.index));
                        }
                        ComponentExternalKind::Component => {
                            self.components.push(self.component(export.index));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use wasmparser::Parser;
    use wasmtime::component::{Component, Linker};
    use wasmtime::{Engine, ResourceLimiter, Store};

    use super::{Starts, TABLE_ELEMENT};

    /// Bytes of memory and tables that wasmtime makes.
    struct Made(usize);

    impl ResourceLimiter for Made {
        fn memory_growing(
            &mut self,
            current: usize,
            desired: usize,
            _maximum: Option<usize>,
        ) -> wasmtime::Result<bool> {
            self.0 += desired - current;
            Ok(true)
        }

        fn table_growing(
            &mut self,
            current: usize,
            desired: usize,
            _maximum: Option<usize>,
        ) -> wasmtime::Result<bool> {
            self.0 += (desired - current) * TABLE_ELEMENT;
            Ok(true)
        }
    }

    fn pages_made(text: &str) -> u64 {
        let engine = Engine::default();
        let component = Component::new(&engine, wat::parse_str(text).unwrap()).unwrap();
        let mut store = Store::new(&engine, Made(0));
        store.limiter(|made| made);
        Linker::new(&engine).instantiate(&mut store, &component).unwrap();
        (store.data().0 / weir_layout::WASM_PAGE) as u64
    }

    fn pages(text: &str) -> u64 {
        let component = wat::parse_str(text).unwrap();
        wasmparser::Validator::new().validate_all(&component).unwrap();
        let mut starts = Starts::default();
        for payload in Parser::new(0).parse_all(&component) {
            starts.read(&payload.unwrap());
        }
        starts.bytes() / weir_layout::WASM_PAGE as u64
    }

    #[test]
    fn memories_count_as_often_as_their_module_is_instantiated_whatever_they_begin_with() {
        let text = "(component (core module $m (memory 0) (memory 7)) (core module (memory 1))
            (core instance (instantiate $m)) (core instance (instantiate $m)))";
        let component = wat::parse_str(text).unwrap();
        let mut starts = Starts::default();
        for payload in Parser::new(0).parse_all(&component) {
            starts.read(&payload.unwrap());
        }
        assert_eq!(starts.memories(), 4);
    }

    #[test]
    fn memory_and_tables_count_as_often_as_their_module_is_instantiated() {
        for (component, expected) in [
            ("(component (core module (memory 3)))", 0),
            ("(component (core module $m (memory 3)) (core instance (instantiate $m)))", 3),
            (
                "(component (core module $a (memory 3)) (core module $m (memory 1) (memory 4))
                   (core instance (instantiate $m)) (core instance (instantiate $a))
                   (core instance (instantiate $m)))",
                13,
            ),
            // A page is 8,192 elements, of which some are nothing.
            (
                "(component (core module $m (table 8193 funcref) (table 16384 funcref) (memory 1))
                   (core module $n (table 8191 funcref) (memory 1))
                   (core instance (instantiate $m)) (core instance (instantiate $m)))",
                8,
            ),
            (
                "(component (core module $n (table 8191 funcref) (memory 1))
                   (core instance (instantiate $n)))",
                1,
            ),
            // By the number that an export or an alias gave it.
            (
                "(component (core module $m (memory 2))
                   (export $e \"m\" (core module $m)) (core instance (instantiate $e))
                   (component $c (alias outer 1 0 (core module $o))
                     (core instance (instantiate $o)) (core instance (instantiate $o)))
                   (instance (instantiate $c)) (instance (instantiate $c)))",
                10,
            ),
            (
                "(component
                   (component $c (core module $m (memory 5)) (core instance (instantiate $m)))
                   (component $d (alias outer 1 0 (component $c))
                     (instance (instantiate $c)) (instance (instantiate $c)))
                   (instance (instantiate $d)) (instance (instantiate $c)))",
                15,
            ),
            // A module from elsewhere may be any of those that there are.
            (
                "(component (core module $m (memory 7)) (core module (memory 1))
                   (component $c (import \"m\" (core module $m)) (core instance (instantiate $m)))
                   (instance (instantiate $c (with \"m\" (core module $m)))))",
                7,
            ),
            (
                "(component
                   (component $c (core module $m (memory 6)) (export \"m\" (core module $m)))
                   (instance $i (instantiate $c)) (alias export $i \"m\" (core module $m))
                   (core instance (instantiate $m)) (core instance (instantiate $m)))",
                12,
            ),
        ] {
            assert_eq!(pages(component), expected, "{component}");
            assert_eq!(pages_made(component), expected, "{component}");
        }
    }
}
