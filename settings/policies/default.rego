# The policy of `authorization.rego.embedded: true`: everyone has a folder, and nobody writes
# anywhere else.
#
# A principal may upload keys that begin with its own name and a slash: `anne` may write
# `anne/2026/report.pdf`. One with a slash in its name has no folder, since it could lie within
# another's, and `anonymous` (auth.enabled: false) has none either. Whoever is known may ask about
# the bucket itself: its existence, its region, its own multipart uploads.
package mizuchi

default decision := {"allow": false, "reason": "only keys under the principal's own name"}

decision := {"allow": true} if in_own_folder

decision := {"allow": true} if {
	known
	input.operation in {"HeadBucket", "GetBucketLocation", "ListMultipartUploads"}
}

default allow := false

allow := decision.allow

known if input.authentication != "anonymous"

in_own_folder if {
	known
	is_string(input.key) # null where the operation is on the bucket
	not contains(input.principal, "/")
	startswith(input.key, concat("", [input.principal, "/"]))
}
