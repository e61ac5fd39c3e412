//! CustomResourceDefinitions.

use super::{Heading, NAME, Sheet, condition, join, list, text};
use crate::table::{OBJECT_META, created, name_of};

pub(super) static CUSTOM_RESOURCE_DEFINITION: Sheet = Sheet::new(
    &[
        NAME,
        Heading::new("Scope", "Cluster/Namespaced"),
        Heading::new("Versions", "Served versions"),
        Heading::of("Created At", OBJECT_META, "creationTimestamp").date(),
        Heading::new("Group", "API group").wide(),
        Heading::new("Kind", "CustomResource kind").wide(),
        Heading::new("ShortNames", "Short names").wide(),
        Heading::new("Established", "Established status").boolean().wide(),
    ],
    |object, _| {
        let served = list(object, "/spec/versions").iter().filter(|version| version["served"] == true);
        let label = |version| match text(version, "/name") {
            name if version["storage"] == true => format!("{name}(storage)"),
            name => name.to_owned(),
        };
        let mut versions: Vec<String> = served.map(label).collect();
        versions.sort();
        let short = list(object, "/spec/names/shortNames").iter().filter_map(serde_json::Value::as_str);
        vec![
            name_of(object),
            text(object, "/spec/scope").into(),
            versions.join(",").into(),
            created(object),
            text(object, "/spec/group").into(),
            text(object, "/spec/names/kind").into(),
            join(short, ",").into(),
            (condition(object, "Established") == "True").into(),
        ]
        .into()
    },
);
