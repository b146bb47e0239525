from test_panel_live import *
import time
def test_dbg(driven, lab):
    for k in range(60):
        lab.page.evaluate("() => { window.saved = 'no'; jupyterapp.commands.execute('docmanager:save').then(() => { window.saved = 'yes' }, (e) => { window.saved = 'failed ' + e }) }")
        for i in range(12):
            lab.page.wait_for_timeout(60)
            if lab.page.evaluate("window.saved")!='no': break
        else:
            print(k, lab.page.evaluate("window.saved"), [x.inner_text() for x in lab.page.locator('.jp-Dialog').all()], lab.errors)
            lab.page.screenshot(path='artefacts/dbg.png')
            b=lab.page.locator('.jp-Dialog .jp-mod-warn, .jp-Dialog .jp-mod-accept'); 
            if b.count(): b.last.click()
    driven.close()
