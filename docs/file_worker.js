// Search of pages that are opened from the disk. Browsers start no Worker from file://, so this one runs the worker's script in
// a hidden frame and passes messages both ways. Pages that a server sends do not use it.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      this.inner = frame.contentWindow
      this.queue = []
      this.inner.answer = data => {
        const message = new MessageEvent("message", { data })
        this.dispatchEvent(message)
        this.onmessage?.(message)
      }
      const script = document.createElement("script")
      script.textContent = `
        var postMessage = data => answer(data)
        var importScripts = (...urls) => urls.reduce((before, url) => before.then(() => new Promise((done, failed) => {
          const script = document.createElement("script")
          Object.assign(script, { src: url, onload: done, onerror: failed })
          document.body.append(script)
        })), Promise.resolve())`
      const work = document.createElement("script")
      work.src = url
      work.onload = () => {
        for (const data of this.queue.splice(0)) this.deliver(data)
        this.queue = null
      }
      this.inner.document.body.append(script, work)
    }
    deliver(data) {
      this.inner.dispatchEvent(new MessageEvent("message", { data }))
    }
    postMessage(data) {
      this.queue ? this.queue.push(data) : this.deliver(data)
    }
    terminate() {
      this.inner.frameElement.remove()
    }
  }
}
