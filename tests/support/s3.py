"""An S3 server on this host that can be told to refuse requests."""

import logging
import os
import threading

from conftest import free_port


class S3:
    """moto's server with a bucket, `data`; `refuse` is asked for each request, and may return a status to answer."""

    def __init__(self):
        import boto3
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        app = DomainDispatcherApplication(create_backend_app)
        self.refuse = lambda environ: None
        self.refused = 0
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request takes as long as the request

        def asked(environ, start_response):
            status = self.refuse(environ)
            if status is None:
                return app(environ, start_response)
            self.refused += 1
            size = int(environ.get("CONTENT_LENGTH") or 0)
            environ["wsgi.input"].read(size)
            code = {403: "AccessDenied", 503: "SlowDown"}.get(status, "InternalError")
            start_response(f"{status} {code}", [("Content-Type", "application/xml")])
            return [f"<Error><Code>{code}</Code><Message>refused by the test</Message></Error>".encode()]

        port = free_port()
        self.server = make_server("127.0.0.1", port, asked, threaded=True)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.storage = {"endpoint_url": f"http://127.0.0.1:{port}"}
        self.client = boto3.client("s3", **self.storage)
        self.client.create_bucket(Bucket="data")

    def keys(self, prefix=""):
        return [one["Key"] for one in self.client.list_objects_v2(Bucket="data", Prefix=prefix).get("Contents", [])]

    def stop(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    @staticmethod
    def credentials(patch):
        """Set environment variables that the clients of these tests need."""
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        assert os.environ["AWS_ACCESS_KEY_ID"] == "testing"
