// Browsers start no worker for a page that was opened from a disk, and search runs in one: there a hidden frame stands
// in for it, which loads the worker's script.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super()
      this.frame = Object.assign(document.createElement("iframe"), { hidden: true, title: "search" })
      document.body.append(this.frame)
      const inside = this.frame.contentWindow
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }))
      const script = inside.document.createElement("script")
      script.src = new URL(address, location.href)
      this.ready = new Promise((resolve) => (script.onload = resolve))
      inside.document.body.append(script)
    }
    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })))
    }
    terminate() {
      this.frame.remove()
    }
  }
}

// The search takes a leading dash for "without"; who types one means a flag.
{
  const QUERY = 2
  const post = Worker.prototype.postMessage
  Worker.prototype.postMessage = function (message, ...rest) {
    const query = message?.type === QUERY
    post.call(this, query ? { ...message, data: message.data.replace(/(^|\s)-+(?=\w)/g, "$1") } : message, ...rest)
  }
}
