//! Tables: what `kubectl get` shows.

use hansa_machinery::{
    Status, printers,
    table::{self, IncludeObject, Options, Printer},
};
use jiff::Timestamp;
use serde_json::Value;

use crate::registry::Resource;

/// Makes tables of one resource.
pub(crate) struct Table {
    api_version: String,
    include: IncludeObject,
    printer: Printer,
    /// Whether a watcher knows the columns already.
    told: bool,
}

impl Table {
    pub(crate) fn new(resource: &Resource, version: &str, include: &str) -> Result<Self, Status> {
        let printer = match &resource.custom {
            Some(custom) => Printer::custom(&custom.columns),
            None => printers::table(&resource.group, &resource.kind).unwrap_or_else(Printer::minimal),
        };
        let include = IncludeObject::parse(Some(include))?;
        Ok(Self { api_version: format!("meta.k8s.io/{version}"), include, printer, told: false })
    }

    fn options(&self) -> Options {
        Options { include: self.include, no_headers: self.told, now: Timestamp::now() }
    }

    /// A list.
    pub(crate) fn list(&self, objects: &[Value], metadata: Value) -> Value {
        let objects: Vec<&Value> = objects.iter().collect();
        self.versioned(table::of_list(&self.printer, &objects, metadata, &self.options()))
    }

    /// One object; the columns are told with the first only.
    pub(crate) fn object(&mut self, object: &Value) -> Value {
        let table = table::of_object(&self.printer, object, &self.options());
        self.told = true;
        self.versioned(table)
    }

    fn versioned(&self, mut table: Value) -> Value {
        table["apiVersion"] = self.api_version.clone().into();
        table
    }
}
