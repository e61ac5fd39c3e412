//! The stock kubectl against the embedded server: every verb, and the same words as a real kube-apiserver says.
//!
//! Each step runs against both servers; what differs by nature (uids, times, addresses) is evened out, the rest must be
//! equal. Without a real one the embedded half still has to succeed where success is expected.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is how tests fail")]

mod support;

use std::{env, path::PathBuf};

use regex::Regex;
use support::{
    Federation, Kubectl,
    embedded::Embedded,
    real::{Cluster, Real},
};
use tempfile::TempDir;

/// What kubectl answered, evened out.
#[derive(Debug, PartialEq)]
struct Answer {
    success: bool,
    out: String,
    err: String,
}

struct Pair {
    embedded: Kubectl,
    /// The context of the first, which is the embedded server unless a test says otherwise.
    context: &'static str,
    real: Option<Kubectl>,
    noise: Vec<(Regex, &'static str)>,
    differences: Vec<String>,
}

impl Pair {
    fn answer(&self, kubectl: &Kubectl, context: &str, args: &[&str], input: &str) -> Answer {
        let output = kubectl.run(context, args, input);
        let even = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            self.noise
                .iter()
                .fold(text, |text, (pattern, with)| pattern.replace_all(&text, *with).into_owned())
        };
        Answer { success: output.status.success(), out: even(&output.stdout), err: even(&output.stderr) }
    }

    /// Runs one command line against both; `wanted` says whether it should succeed.
    fn step(&mut self, wanted: bool, line: &str, input: &str) {
        let args: Vec<&str> = line.split_whitespace().collect();
        let embedded = self.answer(&self.embedded, self.context, &args, input);
        if embedded.success != wanted {
            self.differences.push(format!("kubectl {line}\n  wanted {wanted}, embedded: {embedded:#?}"));
        }
        if let Some(real) = &self.real {
            let real = self.answer(real, "", &args, input);
            if embedded != real {
                self.differences
                    .push(format!("kubectl {line}\n  embedded: {embedded:#?}\n  real:     {real:#?}"));
            }
        }
    }

    /// Like [`Self::step`], where the answers differ for a good reason: both must do `wanted`, whatever they say.
    fn alone(&mut self, wanted: bool, line: &str, input: &str) {
        let args: Vec<&str> = line.split_whitespace().collect();
        for (kubectl, context) in [(Some(&self.embedded), self.context), (self.real.as_ref(), "")] {
            let Some(kubectl) = kubectl else { continue };
            let answer = self.answer(kubectl, context, &args, input);
            if answer.success != wanted {
                self.differences.push(format!("kubectl {line}\n  wanted {wanted}: {answer:#?}"));
            }
        }
    }

    fn all_parts(&mut self) {
        for part in
            [create_and_read, more_verbs, apply, patches, refusals, custom_resources, deletion, access]
        {
            part(self);
        }
        assert!(
            self.differences.is_empty(),
            "{} differences:\n\n{}",
            self.differences.len(),
            self.differences.join("\n\n")
        );
    }

    fn ok(&mut self, line: &str) {
        self.step(true, line, "");
    }

    fn feed(&mut self, line: &str, input: &str) {
        self.step(true, line, input);
    }

    fn refused(&mut self, line: &str, input: &str) {
        self.step(false, line, input);
    }
}

fn noise() -> Vec<(Regex, &'static str)> {
    [
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UID"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
        (r"(resourceVersion: ).\d+.", "${1}RV"),
        (r#"("resourceVersion":) ?"\d+""#, "${1}RV"),
        (r"\b10\.\d+\.\d+\.\d+\b", "CLUSTER-IP"),
        (r"https://127\.0\.0\.1:\d+(/clusters/[a-z0-9]+)?", "SERVER"),
        (r"(?m)(\s)(\d+s|\d+m\d*s?|<invalid>)(\s|$)", "${1}AGE${3}"),
        (r" +", " "),
        (r"-{2,}", "--"),
    ]
    .map(|(pattern, with)| (Regex::new(pattern).unwrap(), with))
    .into()
}

#[test]
fn kubectl_hears_what_a_real_server_says() {
    let up = Embedded::start();
    let dir = TempDir::new().unwrap();
    let real = env::var_os("KUBEBUILDER_ASSETS")
        .map(|assets| Cluster::start("real", dir.path(), &PathBuf::from(assets)));
    let mut pair = Pair {
        embedded: up.kubectl().clone(),
        context: "host",
        real: real.as_ref().map(|r| r.kubectl.clone()),
        noise: noise(),
        differences: Vec::new(),
    };
    pair.all_parts();
}

/// The same through the gateway, the tower and an agent, beside a real server that is asked directly.
#[test]
fn kubectl_hears_the_same_through_an_agent() {
    let Some(federation) = Real::start_with_agents() else { return };
    // What they may do on the member is for the member to say; without this they would not come so far.
    federation.kubectl().apply("host", REACHES_MEMBERS);
    let mut pair = Pair {
        embedded: federation.kubectl().clone(),
        context: "member1",
        real: Some(federation.direct("member2").clone()),
        noise: noise(),
        differences: Vec::new(),
    };
    pair.all_parts();
}

const REACHES_MEMBERS: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reaches-members}
rules:
  - {apiGroups: [cluster.kubesphere.io], resources: [clusters/proxy], verbs: ["*"]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: reaches-members}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reaches-members}
subjects:
  - {apiGroup: rbac.authorization.k8s.io, kind: User, name: nobody}
  - {apiGroup: rbac.authorization.k8s.io, kind: User, name: "system:serviceaccount:default:default"}
"#;

const CONFIG: &str = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"one","namespace":"k","labels":{"a":"b"}},"data":{"x":"1"}}"#;

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: k, labels: {app: web}}
spec:
  replicas: 0
  paused: true
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
        - name: web
          image: nginx:1.27
          ports: [{containerPort: 80}]
          env: [{name: A, value: "1"}]
"#;

fn create_and_read(p: &mut Pair) {
    p.ok("create namespace k");
    p.feed("create -f -", CONFIG);
    p.ok("get configmap one -n k");
    p.ok("get configmap one -n k -o yaml");
    p.ok("get cm -n k -o wide -l a=b --no-headers");
    p.ok("get cm -n k -l a!=b");
    p.ok("get cm -n k --field-selector metadata.name=one -o name");
    p.ok("describe configmap one -n k");
    p.ok("create secret generic s -n k --from-literal=p=q");
    p.ok("get secret s -n k -o jsonpath={.data.p}");
    for n in 0..5 {
        p.ok(&format!("create configmap page{n} -n k"));
    }
    p.ok("get cm -n k --chunk-size=2 -o name");
    p.feed("create -f -", DEPLOYMENT);
    p.ok("get deploy web -n k");
    p.ok("get deploy web -n k -o wide");
    p.ok("get deploy web -n k -o jsonpath={.spec}");
    p.ok("create service clusterip svc -n k --tcp=80:8080");
    p.ok(
        "get svc svc -n k -o jsonpath={.spec.type}{.spec.ports}{.spec.sessionAffinity}{.spec.ipFamilyPolicy}",
    );
    p.ok("create service clusterip headless -n k --clusterip=None");
    p.ok("get svc headless -n k -o jsonpath={.spec.clusterIPs}{.spec.ipFamilies}{.spec.ipFamilyPolicy}");
    p.ok("create serviceaccount robot -n k");
    p.ok("create role reader -n k --verb=get,list --resource=pods,deployments.apps");
    p.ok("create rolebinding reader -n k --role=reader --serviceaccount=k:robot");
    p.ok("get role,rolebinding,sa -n k -o wide");
    p.ok("get rolebinding reader -n k -o yaml");
    p.ok("create job once -n k --image=busybox:1.37 --dry-run=server -o jsonpath={.spec.backoffLimit}{.spec.template.spec.restartPolicy}");
    p.ok("create cronjob often -n k --image=busybox:1.37 --schedule=*/5_*_*_*_* --dry-run=client -o name");
    p.ok("create ingress web -n k --rule=example.org/*=svc:80");
    p.ok("get ingress -n k");
    p.ok("create quota q -n k --hard=pods=3");
    p.ok("create priorityclass high --value=10");
    p.ok("create poddisruptionbudget pdb -n k --selector=app=web --min-available=1");
    p.ok("get pdb -n k");
    // Only one has the kinds of a federation, only the other an aggregator, devices and older versions of groups.
    p.alone(true, "api-versions --request-timeout=10s", "");
    // The schemas that Kubernetes publishes, unlike those a server generates, do not list the values of an enumeration.
    p.alone(true, "explain deployment.spec.strategy", "");
    p.ok("explain deployment.spec.strategy.rollingUpdate");
    p.ok("explain configmap --recursive");
    p.refused("get --raw /api/v1/namespaces/k/configmaps/absent", "");
    p.ok("get ns default kube-system kube-public kube-node-lease -o name");
}

fn more_verbs(p: &mut Pair) {
    p.ok("get cm -n k -l a --show-labels");
    p.ok("get cm -n k -o custom-columns=N:.metadata.name,L:.metadata.labels --sort-by=.metadata.name");
    p.ok("get cm -n k -l a=b -o json");
    p.ok("get cm,secrets,svc -n k -l nothing=here");
    p.ok("label cm one -n k --list");
    p.refused("label cm one -n k a=c", "");
    p.ok("expose deployment web -n k --port=80 --name=exposed --dry-run=server -o jsonpath={.spec.selector}");
    p.ok("run once -n k --image=busybox:1.37 --restart=Never --dry-run=server -o jsonpath={.spec.containers[0].image}{.spec.dnsPolicy}{.spec.tolerations}");
    p.refused("run Bad_Name -n k --image=busybox:1.37", "");
    p.refused("create secret tls t -n k --cert=/nonexistent --key=/nonexistent", "");
    p.refused("create rolebinding reader -n k --role=reader --user=a", "");
    p.refused("create quota q2 -n k --hard=pods=many", "");
    p.refused("create ingress bad -n k --rule=-bad-/x=svc:80", "");
    p.ok("create clusterrole agg --aggregation-rule=a=b");
    p.ok("get clusterrole agg -o jsonpath={.aggregationRule}");
    p.ok("delete clusterrole agg");
    p.refused("get --raw /api/v1/namespaces/k/nothings", "");
    p.refused("get --raw /apis/none.example.org/v1/things", "");
    p.refused("get --raw /nothing", "");
    p.refused("get --raw /api/v1/namespaces/k/configmaps?limit=x", "");
    p.refused("get --raw /api/v1/namespaces/k/configmaps?resourceVersion=x", "");
    p.refused("replace -f -", &CONFIG.replace("\"one\"", "\"absent\""));
    p.refused(
        "replace -f -",
        &CONFIG.replace("\"name\":\"one\"", "\"name\":\"one\",\"resourceVersion\":\"1\""),
    );
    p.refused(
        "create -f -",
        &CONFIG.replace("\"a\":\"b\"", "\"a\":\"not a label\"").replace("\"one\"", "\"l\""),
    );
    p.feed(
        "create -f -",
        &CONFIG.replace("\"one\"", "\"fixed\"").replace("\"data\"", "\"immutable\":true,\"data\""),
    );
    p.refused(r#"patch cm fixed -n k --type=merge -p {"data":{"x":"2"}}"#, "");
    p.ok("delete cm fixed -n k --grace-period=0");
    p.ok("delete cm -n k page0 page1 -o name");
    p.refused("delete cm -n k page0 page2", "");
}

fn apply(p: &mut Pair) {
    let changed = DEPLOYMENT
        .replace("nginx:1.27", "nginx:1.28")
        .replace(r#"name: A, value: "1""#, r#"name: B, value: "2""#);
    p.feed("apply -f -", DEPLOYMENT);
    p.feed("diff -f -", DEPLOYMENT);
    p.feed("apply -f -", &changed);
    p.ok("get deploy web -n k -o jsonpath={.spec.template.spec.containers[0]}");
    p.feed("apply -f - --dry-run=server -o name", DEPLOYMENT);
    p.feed("apply --server-side --force-conflicts -f -", &changed);
    p.feed("apply --server-side --field-manager=other -f -", r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"shared","namespace":"k"},"data":{"mine":"1"}}"#);
    p.feed("apply --server-side --field-manager=third -f -", r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"shared","namespace":"k"},"data":{"yours":"2"}}"#);
    p.ok("get cm shared -n k -o jsonpath={.data}");
    p.refused(
        "apply --server-side --field-manager=third -f -",
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"shared","namespace":"k"},"data":{"mine":"9"}}"#,
    );
    p.feed(
        "apply --server-side --field-manager=other -f -",
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"shared","namespace":"k"}}"#,
    );
    p.ok("get cm shared -n k -o jsonpath={.data}");
    p.ok("get cm shared -n k --show-managed-fields -o jsonpath={.metadata.managedFields[*].fieldsV1}");
    p.feed("replace -f -", &CONFIG.replace(r#""x":"1""#, r#""x":"2""#));
    p.feed("replace --force -f -", CONFIG);
}

fn patches(p: &mut Pair) {
    p.ok(r#"patch cm one -n k --type=merge -p {"data":{"y":"2","x":null}}"#);
    p.ok(r#"patch cm one -n k --type=json -p [{"op":"add","path":"/data/z","value":"3"}]"#);
    p.ok(r#"patch deploy web -n k -p {"spec":{"template":{"spec":{"containers":[{"name":"side","image":"busybox:1.37"}]}}}}"#);
    p.ok("get deploy web -n k -o jsonpath={.spec.template.spec.containers[*].name}");
    p.ok("get cm one -n k -o jsonpath={.data}");
    p.ok("label cm one -n k c=d");
    p.ok("label cm one -n k c-");
    p.ok("annotate cm one -n k e=f --overwrite");
    p.ok("scale deploy web -n k --replicas=0");
    p.ok("set image deploy/web -n k web=nginx:1.29");
    p.ok("set env deploy/web -n k C=3");
    p.ok("get deploy web -n k -o jsonpath={.metadata.generation}");
    p.ok("patch cm one -n k --type=merge --dry-run=server -p {\"data\":{\"never\":\"1\"}}");
    p.ok("get cm one -n k -o jsonpath={.data.never}");
}

fn refusals(p: &mut Pair) {
    p.refused("get cm absent -n k", "");
    p.refused("get nothings", "");
    p.refused("create namespace k", "");
    p.refused("create configmap Upper -n k", "");
    p.refused("create configmap one -n absent", "");
    p.refused(
        "create -f -",
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"bad","namespace":"k"},"data":{"x":1}}"#,
    );
    p.refused(
        "create -f -",
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"bad","namespace":"k"},"dta":{"x":"1"}}"#,
    );
    p.refused(
        "create -f -",
        &DEPLOYMENT
            .replace("name: web, namespace", "name: bad, namespace")
            .replace("matchLabels: {app: web}", "matchLabels: {app: other}"),
    );
    p.refused(
        "create -f -",
        &DEPLOYMENT
            .replace("name: web, namespace", "name: bad, namespace")
            .replace("replicas: 0", "replicas: many"),
    );
    p.refused(
        "create -f -",
        &DEPLOYMENT
            .replace("name: web, namespace", "name: bad, namespace")
            .replace("image: nginx:1.27", "imag: nginx:1.27"),
    );
    p.refused("create -f -", r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"bad","namespace":"k"},"spec":{"ports":[{"port":99999}]}}"#);
    p.refused(
        "create -f -",
        r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"bad","namespace":"k"},"spec":{}}"#,
    );
    p.refused(
        r#"patch deploy web -n k --type=merge -p {"spec":{"selector":{"matchLabels":{"app":"else"}}}}"#,
        "",
    );
    // Ours says which operation did not fit, which Kubernetes keeps to itself.
    p.alone(false, "patch cm one -n k --type=json -p [{\"op\":\"remove\",\"path\":\"/data/absent\"}]", "");
    p.refused("patch cm one -n k --type=merge -p {broken", "");
    p.refused("label cm one -n k bad/label/key=1", "");
    p.refused("delete cm absent -n k", "");
    p.refused("scale deploy web -n k --replicas=-1", "");
    p.refused("get cm -n k -l a==(", "");
    p.refused("get cm -n k --field-selector nothing=1", "");
}

fn custom_resources(p: &mut Pair) {
    let crd = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.org}
spec:
  group: example.org
  scope: Namespaced
  names: {kind: Widget, plural: widgets, singular: widget, shortNames: [wd], categories: [all]}
  versions:
    - name: v1
      served: true
      storage: true
      subresources:
        status: {}
        scale: {specReplicasPath: .spec.size, statusReplicasPath: .status.size}
      additionalPrinterColumns:
        - {name: Size, type: integer, jsonPath: .spec.size}
        - {name: Colour, type: string, jsonPath: .spec.colour, priority: 1}
      schema:
        openAPIV3Schema:
          type: object
          description: A widget.
          required: [spec]
          properties:
            spec:
              type: object
              required: [size]
              properties:
                size: {type: integer, minimum: 1, maximum: 9}
                colour: {type: string, enum: [red, green], default: red}
                parts:
                  type: array
                  x-kubernetes-list-type: map
                  x-kubernetes-list-map-keys: [name]
                  items: {type: object, required: [name], properties: {name: {type: string}, count: {type: integer}}}
            status: {type: object, properties: {size: {type: integer}}}
"#;
    p.feed("apply -f -", crd);
    p.ok("wait --for=condition=Established crd/widgets.example.org --timeout=20s");
    let widget = r#"{"apiVersion":"example.org/v1","kind":"Widget","metadata":{"name":"w","namespace":"k"},"spec":{"size":3}}"#;
    p.feed("create -f -", widget);
    // kubectl reads `/openapi/v2` as protobuf to check what a list holds.
    let list = |size: u32| {
        let listed = widget.replace("\"w\"", "\"listed\"").replace('3', &size.to_string());
        let config = CONFIG.replace("\"one\"", "\"listed\"");
        format!(r#"{{"apiVersion":"v1","kind":"List","items":[{config},{listed}]}}"#)
    };
    p.feed("apply -f -", &list(3));
    p.feed("apply -f -", &list(4));
    p.refused("apply -f -", &list(4).replace("\"size\":4", "\"size\":\"big\""));
    p.feed("delete -f -", &list(4));
    p.ok("get wd -n k");
    p.ok("get widgets -n k -o wide");
    p.ok("get widget w -n k -o yaml");
    p.ok("explain widget.spec");
    p.ok("scale widget w -n k --replicas=5");
    p.ok("get widget w -n k -o jsonpath={.spec.size}{.metadata.generation}");
    p.ok(
        r#"patch widget w -n k --type=merge --subresource=status -p {"status":{"size":5},"spec":{"size":1}}"#,
    );
    p.ok("get widget w -n k -o jsonpath={.spec.size}{.status.size}{.metadata.generation}");
    p.refused("create -f -", &widget.replace("\"w\"", "\"x\"").replace("3", "\"big\""));
    p.refused("create -f -", &widget.replace("\"w\"", "\"x\"").replace("3", "11"));
    p.refused("create -f -", &widget.replace("\"w\"", "\"x\"").replace("\"size\":3", "\"colour\":\"blue\""));
    p.refused(
        "create -f -",
        &widget.replace("\"w\"", "\"x\"").replace("\"size\":3", "\"size\":3,\"unknown\":1"),
    );
    p.refused(r#"patch widget w -n k -p {"spec":{"size":2}}"#, "");
    let part = |manager: &str, count: u32| {
        format!(
            r#"{{"apiVersion":"example.org/v1","kind":"Widget","metadata":{{"name":"w","namespace":"k"}},"spec":{{"parts":[{{"name":"{manager}","count":{count}}}]}}}}"#
        )
    };
    p.feed("apply --server-side --field-manager=a -f - --validate=false", &part("a", 1));
    p.feed("apply --server-side --field-manager=b -f - --validate=false", &part("b", 2));
    p.ok("get widget w -n k -o jsonpath={.spec.parts}");
    p.ok("delete widget w -n k");
    p.ok("delete crd widgets.example.org");
    p.refused("get widgets -n k", "");
}

fn deletion(p: &mut Pair) {
    for cascade in ["background", "foreground", "orphan"] {
        p.ok("create configmap owner -n k");
        for kubectl in [(p.context, p.embedded.clone())].into_iter().chain(p.real.clone().map(|r| ("", r))) {
            let (context, kubectl) = kubectl;
            let uid = kubectl.field(context, "k", "cm/owner", ".metadata.uid").unwrap();
            let dependent = format!(
                r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"dependent","namespace":"k","ownerReferences":[
                {{"apiVersion":"v1","kind":"ConfigMap","name":"owner","uid":"{uid}","blockOwnerDeletion":true}}]}}}}"#
            );
            kubectl.apply(context, &dependent);
            kubectl.ok(
                context,
                &["delete", "cm/owner", "-n", "k", &format!("--cascade={cascade}"), "--timeout=30s"],
            );
            support::eventually("the collector has done its work", || match cascade {
                "orphan" => kubectl
                    .field(context, "k", "cm/dependent", ".metadata.ownerReferences")
                    .and_then(|o| support::same(o, String::new())),
                _ => kubectl.absent(context, "k", "cm/dependent"),
            });
        }
    }
    p.ok("delete cm dependent -n k");
    p.ok("delete cm -n k -l a=b");
    p.ok("delete deploy web -n k --wait=true --timeout=30s");
    p.ok("delete ns k --timeout=60s");
    p.refused("get ns k", "");
}

fn access(p: &mut Pair) {
    p.ok("auth can-i create pods");
    p.refused("auth can-i create pods --as=nobody", "");
    p.refused("get pods --as=nobody", "");
    p.refused("get secrets -n kube-system --as=system:serviceaccount:default:default", "");
    p.ok("auth can-i list pods --as=someone --as-group=hansa:admins");
    p.ok("get clusterrole view -o jsonpath={.aggregationRule}");
    p.refused("auth can-i get clusterroles --as=nobody", "");
}
