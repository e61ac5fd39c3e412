//! `hansa version`.

use anyhow::Result;
use serde_json::json;

use crate::{
    cli,
    output::{self, Table},
};

pub(crate) async fn run(args: &cli::Version) -> Result<()> {
    let own = env!("CARGO_PKG_VERSION");
    let host = match args.client {
        true => None,
        false => match args.host.client() {
            // A host that does not answer is worth a line, not a failure: the question was what this program is.
            Ok(client) => Some(
                client
                    .apiserver_version()
                    .await
                    .map(|v| v.git_version)
                    .unwrap_or_else(|e| format!("unreachable: {e}")),
            ),
            Err(_) => None,
        },
    };
    let embedded = format!("v{}", hansa_machinery::kubernetes::KUBERNETES.version);
    let value = json!({"hansa": own, "embeddedKubernetes": embedded, "host": host});
    let table = || {
        let mut rows = vec![
            vec!["hansa".to_owned(), own.to_owned()],
            vec!["embedded Kubernetes".to_owned(), embedded.clone()],
        ];
        rows.extend(host.iter().map(|host| vec!["host".to_owned(), host.clone()]));
        Table { headers: vec!["PART", "VERSION"], rows, wide: 0 }
    };
    output::print(args.output.output, &value, || format!("{own}\n"), table)
}
